"""How KE and MEND learn: what they are trained on, one step, and the loop around it."""
