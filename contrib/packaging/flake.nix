{
  description = "User-mode network for virtual machines and namespaces";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "riscv64-linux" ];
      each = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      version = (nixpkgs.lib.importTOML ../../Cargo.toml).workspace.package.version;
    in
    {
      packages = each (pkgs: {
        default = pkgs.rustPlatform.buildRustPackage {
          pname = "passt-rs";
          inherit version;
          src = ../..;
          cargoLock.lockFile = ../../Cargo.lock;
          cargoBuildFlags = [ "-p" "passt" "--bins" ];
          # The tests want namespaces and guests, which the builder does not have.
          doCheck = false;
          # Licences and SBOM of crates are written by contrib/packaging/build.
          installPhase = ''
            runHook preInstall
            sh contrib/packaging/install --prefix "" --programs "$out/bin" --built "target/${pkgs.stdenv.hostPlatform.rust.rustcTarget}/release" \
              --without licences --without sbom "$out"
            runHook postInstall
          '';
          meta = {
            description = "User-mode network for virtual machines and namespaces";
            license = with pkgs.lib.licenses; [ asl20 mit ];
            mainProgram = "pasta";
            platforms = pkgs.lib.platforms.linux;
          };
        };
      });
    };
}
