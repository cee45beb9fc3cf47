"""What a run will cost: hours, memory and disk, before it begins.

A profile goes in, with a finished run or a machine to time; a table comes out. Begin with ``plan``; ``arithmetic``
counts what the networks compute.
"""
