//! What servers do all day, for benchmarks.

use crate::support::Cluster;

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// pgbench: balances in uniformly random rows, and a history.
    Tpcb,
    /// Order entry: a catalogue with texts, jsonb and a GIN index, and orders; what sells well changes most.
    Shop,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 2] = [Workload::Tpcb, Workload::Shop];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Tpcb => "tpcb",
            Workload::Shop => "shop",
        }
    }

    /// Fills the database with about 15 MB for each unit of `scale`.
    pub fn load(self, cluster: &Cluster, scale: u32) {
        match self {
            Workload::Tpcb => {
                cluster.pgbench(&["-i", "-q", "-s", &scale.to_string()]);
            }
            Workload::Shop => {
                cluster.psql(SHOP);
                let fill = include_str!("shop_fill.sql").replace(":scale", &scale.to_string());
                cluster.psql(&fill);
                cluster.psql("VACUUM ANALYZE");
            }
        }
        cluster.psql("CHECKPOINT");
    }

    /// Runs so many transactions.
    pub fn run(self, cluster: &Cluster, transactions: u32) {
        let each = (transactions / 4).to_string();
        let mut arguments = vec!["-n", "-c", "4", "-t", &each];
        let script = cluster.directory().join("shop.pgbench");
        if self == Workload::Shop {
            std::fs::write(&script, include_str!("shop.pgbench")).unwrap();
            arguments.extend(["-f", script.to_str().unwrap()]);
        }
        cluster.pgbench(&arguments);
        cluster.psql("CHECKPOINT");
    }
}

const SHOP: &str = "
    CREATE TABLE word (n int PRIMARY KEY, text text);
    CREATE TABLE product (id int PRIMARY KEY, sku uuid UNIQUE DEFAULT gen_random_uuid(), name text,
        description text, attributes jsonb, price numeric(9,2), stock int, changed timestamptz);
    CREATE INDEX ON product USING gin (to_tsvector('simple', description));
    CREATE TABLE customer (id int PRIMARY KEY, email text UNIQUE, name text, since date);
    CREATE TABLE orders (id bigserial PRIMARY KEY, customer int, at timestamptz DEFAULT now(), status text,
        note jsonb);
    CREATE INDEX ON orders (customer);
    CREATE INDEX ON orders (at);
    CREATE TABLE line (orders bigint, product int, count int, price numeric(9,2), PRIMARY KEY (orders, product));
    CREATE INDEX ON line (product)";
