"""What is measured of a network: accuracy, costs, time, information plane, and the record of it."""
