"""Large requests are read in processes of their own; what is left of them crosses back."""
