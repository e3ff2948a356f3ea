"""Features of Daybook, one folder each, with a descriptor that `daybook.feature` describes.

A feature imports any other package of Daybook, but no other feature. No other package imports a
feature: if its folder is deleted, everything else works.
"""
