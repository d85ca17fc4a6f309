"""Does editkit compute on a model what the library computes? Checked when a model loads whose
family is not in the tested table, and by ``editkit check-architecture``.
"""
