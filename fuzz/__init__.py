"""What a coverage-guided fuzzer runs: `targets` says what must hold for any bytes, ``python -m fuzz`` looks for bytes
for which it doesn't."""
