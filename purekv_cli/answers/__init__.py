"""What is found in an answer's text: times of the clip, and JSON."""
