"""cli: one thin file a verb: parse, call the API, render."""
