"""`purekv bench`: dense against PureKV in one run, every speed-up behind a correctness gate."""
