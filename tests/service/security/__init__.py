"""What attackers and careless neighbours try, against the delivered settings: docs/security.md says what holds."""
