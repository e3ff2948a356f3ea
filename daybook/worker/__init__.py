"""The warm worker: it claims, starts each run's process from a parent that has everything imported,
supervises it and ends it. Flow code runs in those processes only.
"""
