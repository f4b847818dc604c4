"""The engine between the ports: arithmetic and policy are pure, and shared state is under one short lock."""
