"""The mark of a node that is in a measured model only to give its neighbour the usual layout.

The worker imports this: no imports.
"""

CONTEXT = "factory_context_"
