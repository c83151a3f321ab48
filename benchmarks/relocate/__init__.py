"""How long clients wait while a database moves to another partition, measured by their own acknowledged commits."""
