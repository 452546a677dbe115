"""`purekv chat`: turns about one clip after another; the model's memory of them is the pruned cache."""
