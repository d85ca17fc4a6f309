"""Training of KE and MEND: the data, the objective of a step, and the loop around it."""
