"""The engine between the ports: what is arithmetic or policy is pure, what is shared is under one short lock."""
