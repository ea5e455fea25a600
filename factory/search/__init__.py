"""Search: methods = relaxation x architecture gradient x schedule x cost terms.

Nothing is imported here, so that ``factory.search.config`` stays free of torch. The entry points
are ``factory.search.architectures.search_architectures`` and ``continue_with_tighter``.
"""
