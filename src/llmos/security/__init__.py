"""Who may do what: actors, API keys, the policy table, the audit chain and browser guards."""
