"""The method: which cache entries stay (importance, budget, selection) and which keys a query reads (pattern)."""
