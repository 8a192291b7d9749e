use std::sync::{Arc, Mutex};

use super::*;

/// The kernel: in which condition the table is, how long a look at all of it takes, and when there was one.
#[derive(Clone)]
struct Fake(Arc<Mutex<(Condition, Duration, Vec<Instant>)>>);

impl SharedTable for Fake {
    fn verify(&mut self) -> Result<Condition, TableError> {
        Ok(self.0.lock().unwrap().0)
    }

    fn repair(&mut self) -> Result<usize, TableError> {
        let took = self.0.lock().unwrap().1;
        tokio::runtime::Handle::current().block_on(tokio::time::advance(took));
        self.0.lock().unwrap().2.push(Instant::now());
        Ok(1)
    }
}

#[tokio::test(start_paused = true)]
async fn component_others_cost_a_twentieth_and_a_table_that_is_gone_is_back_at_once() {
    let fake = Fake(Arc::new(Mutex::new((Condition::Touched, Duration::from_millis(300), Vec::new()))));
    let mut slot = TableSlot::new();
    assert_eq!(slot.look().await.unwrap(), 0, "nothing is opened for a look");
    let kernel = fake.clone();
    slot.work(move || Ok(kernel), |_| Ok(())).await.unwrap();
    for _ in 0..120 {
        slot.look().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let looks = std::mem::take(&mut fake.0.lock().unwrap().2);
    assert!((15..=20).contains(&looks.len()), "{} looks of 0.3 s in two minutes", looks.len());
    fake.0.lock().unwrap().0 = Condition::Gone;
    assert_eq!([slot.look().await.unwrap(), slot.look().await.unwrap()], [1, 1]);
    fake.0.lock().unwrap().0 = Condition::Intact;
    assert_eq!(slot.look().await.unwrap(), 0);
}

#[tokio::test]
async fn component_a_panic_costs_the_open_table_only() {
    let fake = Fake(Arc::new(Mutex::new((Condition::Intact, Duration::ZERO, Vec::new()))));
    let (one, two) = (fake.clone(), fake);
    let mut slot = TableSlot::new();
    let panicked = slot.work(move || Ok(one), |_| -> Result<(), TableError> { panic!("of the test") }).await;
    assert!(matches!(panicked, Err(TableError::Interrupted)) && !slot.is_open());
    slot.work(move || Ok(two), |_| Ok(())).await.unwrap();
    assert!(slot.is_open());
}
