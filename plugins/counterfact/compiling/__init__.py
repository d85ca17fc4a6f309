"""From facts to records in CounterFact's layout, as the appendix of Meng et al. (2022) has it."""
