"""What the contract tests of every metadata engine share."""
