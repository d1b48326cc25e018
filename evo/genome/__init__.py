"""What a subnet keeps, costs and may be, and how it is varied. numpy only."""
