"""`purekv calibrate`: which layers' attention says what, what each dial costs, and a preset chosen from both."""
