"""Names of files that are searched for: what a video's and a picture's end in."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".avi", ".gif", ".mpg", ".mpeg", ".flv", ".wmv"}
)
