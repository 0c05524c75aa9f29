//! Inputs from a seed: those that a target accepts, changed a little, again and again.

use std::collections::VecDeque;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::Target;

/// An input does not grow over this.
const INPUT_BYTES_MAX: usize = 32 << 10;
/// Changed inputs that are changed again later.
const POOL_MAX: usize = 256;
const CHANGES_MAX: usize = 6;

/// Numbers that lengths and counts are wrong with.
const NUMBERS: [i64; 16] = [
    0,
    1,
    -1,
    i8::MAX as i64,
    i8::MIN as i64,
    u8::MAX as i64,
    i16::MAX as i64,
    i16::MIN as i64,
    u16::MAX as i64,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    i64::MAX,
    i64::MIN,
    1 << 20,
    1 << 30,
];

/// The same for the same seed.
pub struct Inputs {
    seeds: Vec<Vec<u8>>,
    next: usize,
    pool: VecDeque<Vec<u8>>,
    random: SmallRng,
}

impl Inputs {
    pub fn new(target: &Target, seed: u64) -> Self {
        Self { seeds: (target.seeds)(), next: 0, pool: VecDeque::new(), random: SmallRng::seed_from_u64(seed) }
    }

    fn some(&mut self) -> Vec<u8> {
        let from_pool = !self.pool.is_empty() && self.random.random_bool(0.25);
        let chosen = if from_pool {
            let place = self.random.random_range(0..self.pool.len());
            self.pool.get(place)
        } else {
            self.seeds.choose(&mut self.random)
        };
        chosen.cloned().unwrap_or_default()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let place = self.random.random_range(0..=input.len());
        let length = self.random.random_range(0..=16.min(input.len() - place));
        match self.random.random_range(0..8) {
            0 => input.truncate(place),
            1 => drop(input.drain(place..place + length)),
            2 => {
                let more: Vec<u8> = (0..self.random.random_range(1..16)).map(|_| self.random.random()).collect();
                input.splice(place..place, more);
            }
            3 => {
                let copied = input[place..place + length].to_vec();
                let to = self.random.random_range(0..=input.len());
                input.splice(to..to, copied);
            }
            4 => {
                let other = self.some();
                let from = self.random.random_range(0..=other.len());
                input.truncate(place);
                input.extend_from_slice(&other[from..]);
            }
            5 => {
                let number = NUMBERS.choose(&mut self.random).copied().unwrap_or_default();
                let width = [1, 2, 4, 8][self.random.random_range(0..4)];
                let bytes = &number.to_be_bytes()[8 - width..];
                let end = (place + width).min(input.len());
                input[place..end].copy_from_slice(&bytes[..end - place]);
            }
            6 => {
                if let Some(byte) = input.get_mut(place) {
                    *byte ^= 1 << self.random.random_range(0..8);
                }
            }
            _ => {
                if let Some(byte) = input.get_mut(place) {
                    *byte = self.random.random();
                }
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}

impl Iterator for Inputs {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        // First what is good.
        if let Some(seed) = self.seeds.get(self.next) {
            self.next += 1;
            return Some(seed.clone());
        }
        let mut input = self.some();
        for _ in 0..self.random.random_range(1..=CHANGES_MAX) {
            self.change(&mut input);
        }
        if self.random.random_bool(0.05) {
            self.pool.push_back(input.clone());
            if self.pool.len() > POOL_MAX {
                self.pool.pop_front();
            }
        }
        Some(input)
    }
}
