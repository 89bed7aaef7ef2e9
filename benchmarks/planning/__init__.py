"""What ``plan`` predicts beside what is measured."""
