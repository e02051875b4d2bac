"""The formats that become rows, a module for each kind; `datasets/readers.py` lists them."""
