"""What a turn is: the domain, its rules, the ports it needs and the adapters behind them."""
