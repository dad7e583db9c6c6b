-- The payment service: bookings are only added, so a block range index finds a day's of them.

CREATE INDEX accounting_transactions_booked_at ON accounting_transactions USING brin (booked_at);
CREATE INDEX refunds_payment_id ON refunds (payment_id);
ALTER TABLE accounts SET (fillfactor = 50);
CREATE VIEW balance_sheet AS
  SELECT a.kind, count(*) AS accounts, sum(a.balance_cents) AS balance_cents FROM accounts a GROUP BY a.kind;
GRANT SELECT ON balance_sheet TO storefront_app;
