"""The search: which subnets of a teacher to try, what they cost, and how well they do."""
