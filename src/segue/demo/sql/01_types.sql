-- Words and value types of the storefront.

CREATE TYPE customer_status AS ENUM ('active', 'dormant', 'blocked');
CREATE TYPE order_status AS ENUM ('pending', 'paid', 'shipped', 'delivered', 'cancelled', 'refunded');
CREATE TYPE cart_status AS ENUM ('open', 'ordered', 'abandoned');
CREATE TYPE payment_method AS ENUM ('wallet', 'card', 'transfer');
CREATE TYPE payment_status AS ENUM ('authorised', 'captured', 'refunded', 'failed');
CREATE TYPE shipment_status AS ENUM ('packed', 'sent', 'arrived');
CREATE TYPE return_reason AS ENUM ('damaged', 'wrong-item', 'late', 'changed-mind');
CREATE TYPE account_kind AS ENUM ('wallet', 'revenue', 'bank', 'tax');
CREATE TYPE ticket_state AS ENUM ('open', 'waiting', 'closed');

CREATE DOMAIN email_address AS text CHECK (VALUE ~ '^[^@[:space:]]+@[^@[:space:]]+$');
CREATE DOMAIN country_code AS char(2) CHECK (VALUE ~ '^[A-Z]{2}$');
