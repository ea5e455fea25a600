"""The verbs of the command line as functions; factory.api loads each when it is first used."""
