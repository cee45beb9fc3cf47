"""The ground floor, on the standard library: ``files`` (whole files, locks and links), ``codebase`` (which modules
code needs), ``workers`` (processes that end with their parent) and ``memory``.
"""
