"""Compiling records in CounterFact's layout from facts, in the way of the paper's appendix."""
