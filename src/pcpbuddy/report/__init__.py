"""
Results as text. A report reads results; it runs nothing.
"""
