"""Editors that learn to edit: KE and MEND."""
