"""Subtitles as timed text in the prompt: found, read, cut to the clip and to a number of tokens."""
