"""What a run will cost: hours, memory and disk, before it begins.

A profile and measured rates go in; a table comes out. Begin with ``plan``.
"""
