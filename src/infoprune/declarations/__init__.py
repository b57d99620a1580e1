"""How options are declared, and how values from outside are checked against the declarations."""
