"""
mltrace in the frameworks of others: one module for each, imported by those who use it.
"""
