"""The pages of the documentation; ``editkit explain`` prints them."""
