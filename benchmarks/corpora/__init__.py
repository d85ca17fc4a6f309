"""Texts for statistics that ship with editkit."""
