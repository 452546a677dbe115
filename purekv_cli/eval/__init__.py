"""Answer quality: how often the answer is right, by policy and budget, through the whole path a user takes."""
