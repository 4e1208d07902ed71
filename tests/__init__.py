"""A package, as torch-fidelity installs one of the same name that would hide this folder."""
