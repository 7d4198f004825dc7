"""What the tests of the operators share."""
