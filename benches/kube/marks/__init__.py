"""One module per subject, each with ``run(ground)``: what it yields is a row of the table, in the order of the modules' names."""
