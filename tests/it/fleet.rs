//! Several gateways before one application share nothing: together they let through what the documents say, and never more.

use crate::support::upstream::Toy;
use crate::support::{BASE, LOGIN, Stage, Visitor, open, rewrite, run};

const BURST: usize = 4;

/// Two gateways on one config.
struct Pair([Stage; 2]);

#[test]
fn trap_a_replica_multiplies_limits_by_the_number_of_gateways_and_splitting_them_keeps_the_whole() {
    let (toy, journal) = Toy::recording();
    let limit = |name: &str, burst: usize| format!("[limit.{name}]\nkey = \"client\"\nrate = \"2/h\"\nburst = {burst}\n");
    let route = |path: &str, name: &str| {
        format!("[[site.route]]\npath = \"{path}\"\nupstream = \"toy\"\nbots = \"any\"\nlimits = [\"{name}\"]\n")
    };
    let limits = limit("whole", BURST) + &limit("split", BURST / 2);
    let pair = Pair::open(&format!("{BASE}{limits}{}{}{}", toy.site(), route("/whole", "whole"), route("/split", "split")));
    run(async {
        assert_eq!(pair.passed([1, 1], "/whole").await, 2 * BURST, "n times the budget");
        assert_eq!(pair.passed([1, 1], "/split").await, BURST, "n times an nth of it");
        assert_eq!(journal.len(), 3 * BURST);

        // A balancer that keeps a client at one gateway.
        let kept = Visitor::new(&pair.0[0], [1, 2]);
        let mut passed = 0;
        for _ in 0..4 * BURST {
            passed += usize::from(kept.get("/whole").await.unwrap().status == 200);
        }
        assert_eq!(passed, BURST, "exactly the budget");
    });
}

#[test]
fn trap_a_replica_multiplies_limits_of_guesses_too_and_never_by_more() {
    let (toy, journal) = Toy::answering(|_| b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_vec());
    let budget = "[guesses]\nper_client = { failures = 4, within = \"10m\" }\nper_account = { failures = 50, within = \"1h\" }\n";
    let pair = Pair::open(&format!("{BASE}{budget}{LOGIN}{}", toy.site_with("", "login = \"form\"")));
    run(async {
        pair.guess([1, 1]).await;
        assert_eq!(journal.len(), 2 * 4, "n times the budget reached the application");
        for stage in &pair.0 {
            assert_eq!(Visitor::new(stage, [1, 1]).get("/").await.unwrap().told(), "403 banned", "at each of them");
        }

        for stage in &pair.0 {
            let reloaded = rewrite(stage, |text| text.replace("failures = 4", "failures = 2"));
            assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
        }
        let before = journal.len();
        pair.guess([1, 2]).await;
        assert_eq!(journal.len() - before, 4, "an nth of it at each is the whole");

        let before = journal.len();
        for guess in 0..8 {
            Visitor::new(&pair.0[0], [1, 3]).sign_in("alice", &format!("kept-{guess}")).await.unwrap();
        }
        assert_eq!(journal.len() - before, 2, "kept at one gateway it has that gateway's share");
    });
}

impl Pair {
    fn open(text: &str) -> Self {
        Self([open(text), open(text)])
    }

    /// How many requests pass of a client that takes the gateways in turn, until both have refused him often.
    async fn passed(&self, from: [u8; 2], path: &str) -> usize {
        let mut passed = 0;
        for turn in 0..6 * BURST {
            let answer = Visitor::new(&self.0[turn % 2], from).get(path).await.unwrap();
            match answer.told().as_str() {
                "200" => passed += 1,
                refused => assert_eq!(refused, "429 rate-limited"),
            }
        }
        passed
    }

    /// Distinct wrong passwords of one client who takes the gateways in turn.
    async fn guess(&self, from: [u8; 2]) {
        for turn in 0..20 {
            Visitor::new(&self.0[turn % 2], from).sign_in("alice", &format!("wrong-{turn}")).await.unwrap();
        }
    }
}
