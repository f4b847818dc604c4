"""What the tests stand on: servers, fakes, mounts and files of their own."""
