"""One module per topic; each measures the rows it declares."""
