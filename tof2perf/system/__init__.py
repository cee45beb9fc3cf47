"""The ground floor, on the standard library: ``files`` (whole files, locks, links, digests), ``run`` (the folders of a
run), ``codebase`` (which modules code needs), ``workers`` (processes that end with their parent) and ``memory``.
"""
