//! `#[e2e]`: a test of the lab, with the attempts that `kube_pet_lab::attempts` gives it.

use proc_macro::TokenStream;
use quote::quote;
use syn::{ItemFn, parse_macro_input};

/// Makes an `async fn` without parameters that returns `anyhow::Result<()>` a test.
#[proc_macro_attribute]
pub fn e2e(_: TokenStream, item: TokenStream) -> TokenStream {
    let test = parse_macro_input!(item as ItemFn);
    let name = &test.sig.ident;
    // The test itself is within the function that is called like it.
    quote! {
        #[test]
        fn #name() -> ::anyhow::Result<()> {
            #test
            ::kube_pet_lab::attempts::run(concat!(module_path!(), "::", stringify!(#name)), #name)
        }
    }
    .into()
}
