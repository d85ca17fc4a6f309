"""Shipped plugins, registered by entry points like any third party's."""
